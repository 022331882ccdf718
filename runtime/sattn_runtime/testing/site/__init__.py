"""A folder to put first on the path: its modules have the names of the real packages and give the fakes.

It is a package only so that it ships; nobody imports it by this name.
"""
