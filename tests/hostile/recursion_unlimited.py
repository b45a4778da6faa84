# tries: overflows the C stack -> signal|out_of_memory
def solve(numbers):
    import sys
    sys.setrecursionlimit(1 << 30)

    class A:
        def __repr__(self):
            return repr(self)

    repr(A())
    return sum(numbers)
