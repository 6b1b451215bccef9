"""The `emo prep` commands: a module each, with `main(argv) -> int`."""
