"""Writes a package that pip can install: a wheel with one module."""
import sys
import zipfile

with zipfile.ZipFile(f"{sys.argv[1]}/ordinary_demo-1.0-py3-none-any.whl", "w") as wheel:
    info = "ordinary_demo-1.0.dist-info"
    wheel.writestr("ordinary_demo.py", "answer = 42\n")
    wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: ordinary-demo\nVersion: 1.0\n")
    wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
    wheel.writestr(f"{info}/RECORD", "")
