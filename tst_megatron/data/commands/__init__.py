"""The corpus tools' commands: their flags, and what they print."""
