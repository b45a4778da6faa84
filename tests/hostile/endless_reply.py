# tries: answers with a list that holds itself -> reply_too_large
def solve(numbers):
    answer = []
    answer.append(answer)
    return answer
