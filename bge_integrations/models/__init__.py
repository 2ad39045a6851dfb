"""A checkpoint folder becomes a module that maps packed token ids to arrays."""
