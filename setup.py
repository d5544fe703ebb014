"""What is installed: two packages by name, the example site, the Apache samples and one command."""

from __future__ import annotations

from glob import glob
from pathlib import Path

from setuptools import find_packages, setup

# setuptools and wheel: a test builds what people install.
TEST = ["pytest>=8", "hypothesis>=6", "setuptools>=66", "wheel"]
BENCH = ["DBUtils", "psycopg[binary]>=3.1", "psycopg_pool>=3.2", "SQLAlchemy>=2"]
CHECK = ["ruff>=0.5", "mypy>=1.10", "types-psycopg2"]

setup(
    name="mpool",
    version="0.1.0",
    description="PostgreSQL connection pool and reload-safe handlers for Apache mod_python",
    long_description=Path("README.rst").read_text(encoding="utf-8"),
    long_description_content_type="text/x-rst",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    packages=find_packages(include=["mpool", "mpool.*", "handlers", "handlers.*"], exclude=["handlers.examples*"]),
    package_data={
        "mpool": ["py.typed", "**/*.rst", "tools/templates/*"],
        # A site is a directory of pages, not a package: it travels as data.
        "handlers": ["py.typed", "**/*.rst", "templates/**/*", "examples/**/*", "examples/**/.htaccess"],
    },
    exclude_package_data={"": ["__pycache__/*", "*.pyc", "*/__pycache__/*", "*/*/__pycache__/*"]},
    # Beside the packages, not in them: people write this path into an Include line.
    data_files=[("share/mpool/apache-conf", sorted(glob("apache-conf/*.conf")))],
    # werkzeug: reading multipart forms and checking password hashes.
    install_requires=["psycopg2>=2.9", "werkzeug>=2.2"],
    extras_require={"test": TEST, "check": CHECK, "bench": BENCH, "dev": TEST + CHECK},
    entry_points={"console_scripts": ["mpool = mpool.tools.main:main"]},
    zip_safe=False,
    classifiers=[
        "Development Status :: 4 - Beta",
        "Environment :: Web Environment",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Topic :: Database",
        "Topic :: Internet :: WWW/HTTP",
        "Typing :: Typed",
    ],
)
