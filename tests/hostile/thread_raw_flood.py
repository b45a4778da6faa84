# tries: starts threads past the library, whose stacks overlap -> exception|signal|cpu_timeout
def solve(numbers):
    import ctypes
    stack = ctypes.create_string_buffer(1 << 16)
    top = (ctypes.addressof(stack) + (1 << 16)) & ~0xFFF
    library = ctypes.CDLL(None, use_errno=True)
    flags = 0x50F00  # a thread, without what the library asks for
    for _ in range(1_000):
        if library.clone(library.pause, ctypes.c_void_p(top), flags, None) < 0:
            raise OSError(ctypes.get_errno())
    return sum(numbers)
