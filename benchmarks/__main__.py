"""All benchmarks: python -m benchmarks"""

from benchmarks import environments, sampling, updates

updates.main()
sampling.main()
environments.main()
