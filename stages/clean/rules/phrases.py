"""Default phrases, names and letters that the row rules search for; a preset can replace each list."""

# Blocks in these languages may accompany Python (its output, its input) and do not count as another language.
NEUTRAL = ("", "text", "txt", "plain", "plaintext", "output", "console", "shell", "bash", "sh", "json", "yaml", "toml",
           "csv", "markdown", "md", "diff", "pycon", "doctest", "none", "pytb", "python-repl", "traceback", "log", "ini",
           "cfg", "env", "zsh", "shell-session", "powershell", "cmd", "bat")  # fmt: skip
MARKERS = ("#include <", "public static void", "system.out.print", "console.log(", "<?php", "<!doctype", "</div>",
           "using namespace", "using system;", "std::", "fmt.print", "func main()", "fn main()", "document.get")  # fmt: skip
PLACEHOLDER_PATTERNS = (
    r"#\s*todo\b",
    r"(your|insert|add) (code|implementation|solution|logic) (goes )?here",
    r"(implement|fill) (this|me|in) (here|later)\b",
    r"(code|implementation|logic|solution) goes here",
    r"#\s*+(?:(?:\.\.\.|…)\s*+)?(the )?(rest|remainder) of (the|your) (code|function|implementation|program)",
    r"#\s*+(\.\.\.|…)\s*+\(?(existing|other|more|same|remaining)\b",
    r"lorem ipsum",  # C4
)
REFUSALS = (
    "as an ai language model", "as a large language model", "as a language model", "as an ai assistant", "as an ai,",
    "i am an ai", "i'm an ai", "i'm just an ai", "my knowledge cutoff", "knowledge cut-off", "my training data",
    "as of my last update", "as of my last training", "i'm sorry, but i", "i am sorry, but i", "i apologize, but i",
    "sorry, i can't", "sorry, i cannot", "i can't assist", "i cannot assist", "i can't help with", "i cannot help with",
    "i cannot fulfill", "i can't fulfill", "i'm unable to", "i am unable to", "i'm not able to", "i am not able to",
    "i cannot provide", "i can't provide", "i don't have access to real-time", "against my programming",
    "openai's policies", "violates openai",
)  # fmt: skip
BOILERPLATE = (
    "sure! here", "sure, here", "sure thing", "certainly! here", "certainly, here", "of course! here", "absolutely! here",
    "great question", "i hope this helps", "hope that helps", "let me know if you", "feel free to ask", "happy coding",
    "if you have any further questions", "is there anything else", "you're welcome", "regenerate response",
    "i'd be happy to help", "thank you for your question",
)  # fmt: skip
SYSTEM_MODULES = ("subprocess", "pty", "ctypes", "socket", "socketserver", "ftplib", "smtplib", "telnetlib", "paramiko",
                  "winreg", "fcntl", "pexpect")  # fmt: skip
SYSTEM_CALLS = ("os.system", "os.popen", "os.remove", "os.unlink", "os.rmdir", "os.removedirs", "os.kill", "os.killpg",
                "os.fork", "os.execv", "os.execve", "os.execvp", "os.execl", "os.spawnv", "os.spawnl", "os.setuid",
                "os.chmod", "os.chown", "os._exit", "shutil.rmtree", "pathlib.Path.unlink", "eval", "exec",
                "__import__")  # fmt: skip
LICENCE_HEADERS = ("gnu general public license", "gnu lesser general public", "gnu affero general public", "gplv2", "gplv3",
                   "mozilla public license", "attribution-noncommercial", "proprietary and confidential")  # fmt: skip
SCRIPTS = {  # letters of each, as a part of a character class
    "latin": "A-Za-zªºÀ-ÖØ-öø-ɏḀ-ỿﬀ-ﬆＡ-Ｚａ-ｚ",
    "greek": "Ͱ-Ͽἀ-῿µ",
    "cyrillic": "Ѐ-ԯ",
    "hebrew": "א-ת",
    "arabic": "ؠ-ۿݐ-ݿ",
    "devanagari": "ऀ-ॿ",
    "thai": "ก-๛",
    "hangul": "ᄀ-ᇿ가-힣",
    "kana": "ぁ-ヿ",
    "han": "々㐀-䶿一-鿿",
}
