"""Keys: their types and ranges, missing values, vocabularies, hashes, and the table row of each key.

All code that reads keys follows these rules: `prepare`, `prepare fit`, the reader, warm start, export and scoring.
"""
