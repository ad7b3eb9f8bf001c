"""Data files -> rows -> conversations: sources, readers, encodings, hub; formats and checks."""
