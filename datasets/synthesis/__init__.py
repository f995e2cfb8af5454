"""The synthesised corpora `mini` and `synthetic`: sentences, voices, background noise and the synthesis itself."""
