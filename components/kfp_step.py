"""The decorator of every component.py: a thin function over the installed package."""

from functools import partial

from kfp import dsl

# The image holds everything, so nothing is installed at run time; which image it is, a profile says.
step = partial(dsl.component, base_image="private-llm", packages_to_install=[], install_kfp_package=False)
