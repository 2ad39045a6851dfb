"""Text in, arrays out: the shared inference core. It knows no framework."""
