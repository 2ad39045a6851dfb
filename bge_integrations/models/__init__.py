"""Load checkpoint folders as models that map packed token ids to arrays."""
