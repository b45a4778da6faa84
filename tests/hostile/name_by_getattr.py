# tries: defines the name only when asked for it -> no_entry_point
def __getattr__(name):
    return sum
