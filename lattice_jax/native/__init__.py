"""C beside Python: compiled once for the machine at hand, and called by XLA through its foreign-function interface."""
