"""The challenge's submission: the file format, and making, checking, scoring and logging one."""
