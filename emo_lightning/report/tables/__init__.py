"""The project's tables, a module for each analysis: every one turns its JSON into what the terminal and the report show."""
