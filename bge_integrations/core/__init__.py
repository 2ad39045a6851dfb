"""The shared inference core: text in, arrays out. It does not depend on any framework."""
