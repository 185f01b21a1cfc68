"""Conversations that chat templates are tried on: roles, systems, tools, thinking, odd white space, Unicode, errors."""

WEATHER = {"type": "function", "function": {
    "name": "get_weather", "description": "Get the weather in a city.",
    "parameters": {"type": "object", "properties": {
        "city": {"type": "string", "description": "The city's name, e.g. \"Zürich\" <b>"},
        "unit": {"type": "string", "enum": ["celsius", "fahrenheit"], "default": "celsius"},
        "days": {"type": ["integer", "null"], "minimum": 1, "maximum": 7.5}}, "required": ["city"]}}}
NOW = {"type": "function", "function": {"name": "now", "description": "The time.",
                                        "parameters": {"type": "object", "properties": {}}}}


def call(name, arguments, call_id="call12345"):
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


USER = {"role": "user", "content": "Hello, how are you?"}
BOT = {"role": "assistant", "content": "I'm doing great. How can I help?"}
MORE = {"role": "user", "content": "Show me\n\n  chat templating!  "}
SYSTEM = {"role": "system", "content": "You are a pirate."}
TOOL_TURN = [
    {"role": "user", "content": "Weather in Zürich?"},
    {"role": "assistant", "content": "", "tool_calls": [call("get_weather", {"city": "Zürich", "days": 2, "x": [1.5, None, True]})]},
    {"role": "tool", "tool_call_id": "call12345", "name": "get_weather", "content": "{\"temp\": 21, \"sky\": \"<clear>\"}"},
]

CONVERSATIONS = {
    "user": {"messages": [USER], "add_generation_prompt": True},
    "turns": {"messages": [USER, BOT, MORE], "add_generation_prompt": True},
    "complete": {"messages": [USER, BOT], "add_generation_prompt": False},
    "system": {"messages": [SYSTEM, USER, BOT, MORE], "add_generation_prompt": True},
    "system only": {"messages": [SYSTEM], "add_generation_prompt": True},
    "empty": {"messages": [], "add_generation_prompt": True},
    "developer": {"messages": [{"role": "developer", "content": "Be brief."}, USER], "add_generation_prompt": True},
    "not alternating": {"messages": [USER, MORE, BOT, BOT], "add_generation_prompt": False},
    "bot first": {"messages": [BOT, USER], "add_generation_prompt": True},
    "late system": {"messages": [USER, BOT, SYSTEM, MORE], "add_generation_prompt": True},
    "unicode": {"messages": [{"role": "system", "content": " \u00a0héllo 日本語 \U0001f600\u2028\t"},
                             {"role": "user", "content": "  <|im_end|> {{ 7*7 }} {% raw %} 'q' \"d\" \\ & <b>\r\n "},
                             {"role": "assistant", "content": "ß İ \u200b\u0000"[:-1]}], "add_generation_prompt": False},
    "blank": {"messages": [{"role": "user", "content": ""}, {"role": "assistant", "content": "  "}, {"role": "user", "content": "\n"}],
              "add_generation_prompt": True},
    "null content": {"messages": [USER, {"role": "assistant", "content": None}], "add_generation_prompt": False},
    "no content": {"messages": [USER, {"role": "assistant"}], "add_generation_prompt": False},
    "parts": {"messages": [{"role": "user", "content": [{"type": "text", "text": "one "}, {"type": "text", "text": "two"}]}, BOT],
              "add_generation_prompt": True},
    "tools": {"messages": [SYSTEM, *TOOL_TURN], "tools": [WEATHER, NOW], "add_generation_prompt": True},
    "tools, answered": {"messages": [*TOOL_TURN, {"role": "assistant", "content": "21 degrees."}, USER],
                        "tools": [WEATHER], "add_generation_prompt": True},
    "tools offered": {"messages": [USER], "tools": [WEATHER, NOW], "add_generation_prompt": True},
    "two calls": {"messages": [USER, {"role": "assistant", "content": None, "tool_calls": [
        call("now", {}, "aaaaaaaaa"), call("get_weather", {"city": "Bern"}, "bbbbbbbbb")]},
        {"role": "tool", "tool_call_id": "aaaaaaaaa", "name": "now", "content": "noon"},
        {"role": "tool", "tool_call_id": "bbbbbbbbb", "name": "get_weather", "content": "rain"}],
        "tools": [WEATHER, NOW], "add_generation_prompt": True},
    "string arguments": {"messages": [USER, {"role": "assistant", "content": "", "tool_calls": [call("now", "{\"a\": 1}")]},
                                      {"role": "tool", "tool_call_id": "call12345", "name": "now", "content": "noon"}],
                         "tools": [NOW], "add_generation_prompt": True},
    "thinking": {"messages": [USER, {"role": "assistant", "content": "<think>\nhm\n</think>\n\nYes.", "reasoning_content": "hm"}, MORE],
                 "add_generation_prompt": True, "enable_thinking": True},
    "reasoning": {"messages": [SYSTEM, USER, {"role": "assistant", "content": "Yes.", "reasoning_content": "Let me\nthink"}],
                  "add_generation_prompt": False, "enable_thinking": False, "reasoning_effort": "high"},
    "documents": {"messages": [USER], "documents": [{"title": "A", "text": "alpha"}, {"title": "B", "text": "beta"}],
                  "add_generation_prompt": True, "date_string": "26 Jul 2024", "builtin_tools": ["brave_search"],
                  "custom_tools": [WEATHER["function"]], "tools_in_user_message": False},
}
TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
