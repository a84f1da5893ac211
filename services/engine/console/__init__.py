"""The engine on standard input and output: the core alone, driven by lines of JSON.

`docs/console.md` is the format; it is stable.
"""
