"""The study of the historical claim, 38.5 % -> 89.81 %: what was measured, what the measure itself gives, what is left of it.

Contract: `levels` is the arithmetic of similarities without any network; `spaces` are the two ways to measure, that of the
earlier attempt and that of this project; `arms` trains the same cube in either; `page` writes what `arms` found.
"""
