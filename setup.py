"""What of a package's description is not in setup.cfg?  README, with links that work where it is shown.

IDENTD_URL names the page below which this version's files are shown, as in https://…/identd/blob/v2.0.0: links and
the project's pages are made of it. Without it, a link to a file is the file's name, which is right in an archive.
"""

from __future__ import annotations

import os
import re

import setuptools

url = os.environ.get("IDENTD_URL", "").rstrip("/")
with open("README.md", encoding="utf-8") as file:
    description = re.sub(
        r"\[([^]]*)\]\((?!https?:|#)([^)]*)\)", rf"[\1]({url}/\2)" if url else r"\1 (\2)", file.read()
    )
pages = {"Documentation": "README.md", "Changelog": "CHANGELOG.md"}
setuptools.setup(
    long_description=description,
    long_description_content_type="text/markdown",
    project_urls={"Source": url, **{name: f"{url}/{page}" for name, page in pages.items()}} if url else {},
)
