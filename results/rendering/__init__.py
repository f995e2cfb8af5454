"""A comparison as a terminal table, a page with pictures, Markdown, CSV or JSON."""
