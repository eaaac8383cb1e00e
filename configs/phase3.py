from lattice_jax.config import Config

CONFIG = Config()
