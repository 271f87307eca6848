// Reads JSON: enough for manifests and descriptions of programs.
#pragma once
#include <cstdint>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

struct Json {
  enum Kind { null, boolean, number, text, list, object } kind = null;
  std::string content;  // of texts and numbers; "true" or "false"
  std::vector<Json> items;
  std::map<std::string, Json> members;

  bool has(const std::string& key) const { return members.count(key) && members.at(key).kind != null; }
  const Json& operator[](const std::string& key) const {
    if (!members.count(key)) throw std::runtime_error("JSON without \"" + key + "\"");
    return members.at(key);
  }
  int64_t integer() const { return std::stoll(content); }
  double real() const { return std::stod(content); }

  static Json parse(const std::string& source) {
    size_t at = 0;
    Json value = read(source, at);
    if (space(source, at) != '\0') fail(at);
    return value;
  }

 private:
  [[noreturn]] static void fail(size_t at) { throw std::runtime_error("damaged JSON at byte " + std::to_string(at)); }

  static char space(const std::string& s, size_t& at) {
    while (at < s.size() && (s[at] == ' ' || s[at] == '\n' || s[at] == '\t' || s[at] == '\r')) at++;
    return at < s.size() ? s[at] : '\0';
  }

  static Json read(const std::string& s, size_t& at) {
    Json value;
    char first = space(s, at);
    if (first == '{' || first == '[') {
      value.kind = first == '{' ? object : list;
      char last = first == '{' ? '}' : ']';
      at++;
      if (space(s, at) == last) return at++, value;
      for (;; at++) {
        if (value.kind == object) {
          Json key = read(s, at);
          if (key.kind != text || space(s, at) != ':') fail(at);
          at++;
          value.members[key.content] = read(s, at);
        } else {
          value.items.push_back(read(s, at));
        }
        char next = space(s, at);
        if (next == last) return at++, value;
        if (next != ',') fail(at);
      }
    }
    if (first == '"') {
      value.kind = text;
      for (at++; at < s.size() && s[at] != '"'; at++) value.content += s[at] == '\\' ? escaped(s, ++at) : std::string(1, s[at]);
      if (at++ >= s.size()) fail(at);
      return value;
    }
    while (at < s.size() && std::string(",]} \n\t\r").find(s[at]) == std::string::npos) value.content += s[at++];
    if (value.content == "true" || value.content == "false") value.kind = boolean;
    else if (value.content != "null") value.kind = number;
    if (value.content.empty()) fail(at);
    return value;
  }

  static uint32_t unit(const std::string& s, size_t& at) {  // at: of the u; is left at the last digit
    if (at + 4 >= s.size()) fail(at);
    uint32_t found = std::stoul(s.substr(at + 1, 4), nullptr, 16);
    at += 4;
    return found;
  }

  static std::string escaped(const std::string& s, size_t& at) {
    if (at >= s.size()) fail(at);
    static const std::string from = "bfnrt", to = "\b\f\n\r\t";
    size_t plain = from.find(s[at]);
    if (plain != std::string::npos) return std::string(1, to[plain]);
    if (s[at] != 'u') return std::string(1, s[at]);
    uint32_t code = unit(s, at);
    if (code >> 10 == 0x36 && at + 2 < s.size() && s[at + 1] == '\\' && s[at + 2] == 'u') {
      at += 2;
      code = 0x10000 + ((code & 0x3ff) << 10) + (unit(s, at) & 0x3ff);
    }
    std::string utf8;
    if (code < 0x80) return std::string(1, char(code));
    int more = code < 0x800 ? 1 : code < 0x10000 ? 2 : 3;
    utf8 += char((more == 1 ? 0xc0 : more == 2 ? 0xe0 : 0xf0) | code >> 6 * more);
    while (more--) utf8 += char(0x80 | (code >> 6 * more & 0x3f));
    return utf8;
  }
};
