# tries: changes the supervisor's code on disk -> exception
def solve(numbers):
    with open('/judge/stages/evaluate/inside/zygote.py', 'a') as file:
        file.write('#')
    return sum(numbers)
