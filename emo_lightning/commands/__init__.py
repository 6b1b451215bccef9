"""The `emo` commands: a module each, with `main(argv) -> int`."""
