// Which characters of an answer come from accepted drafts. The server sends tokens, and texts that it made of them: tags
// and spaces may be left out there, and some text comes later than its token. Characters are matched in order.

export class Tint {
  #characters = []; // of tokens, not shown yet: [character, drafted]

  push(tokens) {
    for (const token of tokens) for (const c of token.text) this.#characters.push([c, token.drafted]);
  }

  // Cuts a text into runs [text, drafted].
  runs(text) {
    const runs = [];
    for (const c of text) {
      const found = this.#characters.findIndex(([other]) => other === c);
      const drafted = found >= 0 && this.#characters[found][1];
      if (found >= 0) this.#characters.splice(0, found + 1);
      const last = runs.at(-1);
      if (last && last[1] === drafted) last[0] += c;
      else runs.push([c, drafted]);
    }
    return runs;
  }
}
