"""All benchmarks: python -m benchmarks"""

from benchmarks import environments

environments.main()
