/** A request body to scan, of a shape that real traffic has. */
export interface BodyShape {
  readonly name: string;
  readonly body: Buffer;
  /** Most that reading its facts may cost, over `JSON.parse` of it; undefined: where what is fixed in a request outweighs its bytes, or the machine's caches. */
  readonly parseShareMax?: number;
}

const prose =
  'The harbour master reads the list of ships that are due, marks those that need a pilot, and sends the boats out in the order of the tide. ';
/** Escapes as JSON has to write them: a line break every 40 bytes, quotes, tabs. */
const source = [
  'export function moor(ship: Ship, berth: Berth): Line[] {',
  '\tconst lines: Line[] = [];',
  '\tfor (const cleat of berth.cleats) {',
  '\t\tif (cleat.kind === "bollard") lines.push({ name: "spring", length: ship.length * 1.5 });',
  '\t\telse console.log("no line for \\"" + cleat.name + "\\"");',
  '\t}',
  '\treturn lines;',
  '}',
  '',
].join('\n');
const chinese = '港务长查看到港船舶名单，标出需要引航员的船只，然后按照潮汐的顺序派出小艇。缆绳应当沿着导缆器的方向引出，';

/** Text of about so many bytes in UTF-8, numbered so that no two pieces are equal. */
function textOf(piece: string, bytes: number, seed: number): string {
  const parts: string[] = [];
  for (let length = 0, i = 0; length < bytes; i += 1) {
    const part = `${seed}.${i} ${piece}`;
    parts.push(part);
    length += Buffer.byteLength(part);
  }
  return parts.join('');
}

/** A chat completion request of about so many bytes, its text in messages of about `messageBytes`. */
function chatOf(piece: string, bytes: number, messageBytes: number): string {
  const messages: { role: string; content: string }[] = [{ role: 'system', content: textOf(piece, Math.min(messageBytes, bytes / 4), 0).slice(0, messageBytes) }];
  let left = bytes - 200;
  for (let i = 1; left > 0; i += 1) {
    const content = textOf(piece, Math.min(messageBytes, left), i);
    const room = Math.min(messageBytes, left);
    const kept = Buffer.byteLength(content) > room ? content.slice(0, Math.max(1, Math.floor((content.length * room) / Buffer.byteLength(content)))) : content;
    messages.push({ role: i % 2 === 1 ? 'user' : 'assistant', content: kept });
    left -= Buffer.byteLength(JSON.stringify(kept)) + 32;
  }
  return JSON.stringify({ model: 'm', messages, stream: true, max_tokens: 512, temperature: 0.7, user: 'alice' });
}

/** The same text with everything outside ASCII escaped, as Python's `json.dumps` writes it unless told otherwise. */
function toAscii(json: string): string {
  return json.replace(/[^\0-\x7f]/g, (unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, '0')}`);
}

const kb = 1_000;

/** All shapes, small to large. */
export function createBodies(): BodyShape[] {
  const shape = (name: string, json: string, parseShareMax?: number): BodyShape => ({ name, body: Buffer.from(json), ...(parseShareMax !== undefined && { parseShareMax }) });
  return [
    shape('400 B', chatOf(prose, 400, 8 * kb)),
    shape('4 KB', chatOf(prose, 4 * kb, 2 * kb)),
    shape('16 KB', chatOf(prose, 16 * kb, 4 * kb)),
    shape('220 KB', chatOf(prose, 220 * kb, 8 * kb), 0.2),
    shape('220 KB, one long message', chatOf(prose, 220 * kb, 1_000 * kb), 0.2),
    shape('220 KB, messages of 120 B', chatOf(prose, 220 * kb, 120), 1),
    shape('1 MB', chatOf(prose, 1_000 * kb, 8 * kb)),
    shape('220 KB, source code', chatOf(source, 220 * kb, 16 * kb), 2),
    shape('220 KB, JSON in JSON', chatOf(JSON.stringify({ tool: 'read', lines: source.split('\n') }), 220 * kb, 16 * kb), 2),
    shape('220 KB, Chinese in \\uXXXX', toAscii(chatOf(chinese, 110 * kb, 8 * kb)), 2),
    shape('220 KB, Chinese in UTF-8', chatOf(chinese, 220 * kb, 8 * kb), 0.5),
  ];
}
