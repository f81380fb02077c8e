"""Whatever the locale, what programs print is UTF-8; files and subprocesses say so themselves where they are opened."""

import io
import sys

for _stream in (sys.stdout, sys.stderr):
    if isinstance(_stream, io.TextIOWrapper):
        _stream.reconfigure(encoding="utf-8")
