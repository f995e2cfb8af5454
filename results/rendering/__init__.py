"""Renders a comparison as a terminal table, a page with charts, Markdown, CSV or JSON."""
