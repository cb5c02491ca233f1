"""The command line that `experiments.run` begins: nothing else in the tree knows a flag.

Imports point one way, from the top of this list to its bottom.

    catalogue       the experiments by name
    parsers         values that absl has no parser for
    flags           every flag, and which modes read it
    parsing         argv into flags; what is wrong with it, in one line; --help
    request         what is asked for: the config, what changes it, the folder
    checks          what is refused before anything is done
    process         where programs are kept, and with whom this process trains
    modes           train, evaluate, sample, compare, inspect, export, import
"""
