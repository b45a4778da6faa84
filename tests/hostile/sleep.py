# tries: sleeps -> wall_timeout
def solve(numbers):
    import time
    time.sleep(1000)
    return sum(numbers)
