"""What `fuzz.py` consists of: mutations, formats with their readers, and what a reader must not do."""
