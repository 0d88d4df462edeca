"""The studio's figures: plain data and events in, plotly figures out.

Pure: nothing here reads a file or the library, keeps state, changes what it is given, or knows the page.
"""
