# tries: changes the supervisor's code on disk -> exception
def solve(numbers):
    with open('/judge/stages/judge/sandbox/supervisor.py', 'a') as file:
        file.write('#')
    return sum(numbers)
