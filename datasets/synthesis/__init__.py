"""The synthesised corpora, `mini` and `synthetic`: who says what, the voices, the noise."""
