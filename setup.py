"""What of a package is not in setup.cfg?  README, with links that work where it is shown; archives that are equal.

IDENTD_URL names the page below which this version's files are shown, as in https://…/identd/blob/v2.0.0: links and
the project's pages are made of it. Without it, a link to a file is the file's name, which is right in an archive.
"""

from __future__ import annotations

import gzip
import os
import re
import tarfile

import setuptools
from setuptools.command import sdist


class SourceDistribution(sdist.sdist):
    """Where SOURCE_DATE_EPOCH is set, two archives of the same files are equal (reproducible-builds.org)."""

    def make_archive(self, base_name, format, *args, base_dir=None, **kwargs):
        when = os.environ.get("SOURCE_DATE_EPOCH", "")
        if format != "gztar" or not when.isdigit():
            return super().make_archive(base_name, format, *args, base_dir=base_dir, **kwargs)

        def plain(entry):
            entry.mtime, entry.mode = int(when), 0o755 if entry.mode & 0o100 else 0o644
            entry.uid = entry.gid = 0
            entry.uname = entry.gname = ""
            return entry

        name = f"{base_name}.tar.gz"
        os.makedirs(os.path.dirname(name) or ".", exist_ok=True)
        with (
            open(name, "wb") as file,
            gzip.GzipFile("", "wb", 9, file, int(when)) as zipped,
            tarfile.open(fileobj=zipped, mode="w", format=tarfile.PAX_FORMAT) as archive,
        ):
            archive.add(base_dir, filter=plain)  # in the order of the names
        return name


url = os.environ.get("IDENTD_URL", "").rstrip("/")
with open("README.md", encoding="utf-8") as file:
    description = re.sub(
        r"\[([^]]*)\]\((?!https?:|#)([^)]*)\)", rf"[\1]({url}/\2)" if url else r"\1 (\2)", file.read()
    )
pages = {"Documentation": "README.md", "Changelog": "CHANGELOG.md"}
setuptools.setup(
    cmdclass={"sdist": SourceDistribution},
    long_description=description,
    long_description_content_type="text/markdown",
    project_urls={"Source": url, **{name: f"{url}/{page}" for name, page in pages.items()}} if url else {},
)
