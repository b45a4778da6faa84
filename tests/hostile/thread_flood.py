# tries: starts threads without end, with small stacks -> exception|wall_timeout
def solve(numbers):
    import threading
    threading.stack_size(32768)
    event = threading.Event()
    for _ in range(100_000):
        threading.Thread(target=event.wait, daemon=True).start()
    return sum(numbers)
