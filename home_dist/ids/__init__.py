"""What a key is: its types and their whole ranges, missing values, vocabulary, hash, and the row of a table that it has.

One rule for everything that reads keys: `prepare`, `prepare fit`, the reader, warm start, export and scoring.
"""
