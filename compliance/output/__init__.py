"""The findings of a check as text, JSON, JUnit XML, SARIF and GitHub annotations, all from one report."""
