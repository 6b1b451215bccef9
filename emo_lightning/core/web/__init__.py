"""Servers that are not trusted: which may be asked, how much of an answer is read, and how long they are waited for.

`fetch.fetch_image` is for one picture, `download.Downloader` for many; both obey robots.txt and refuse private addresses.
"""
