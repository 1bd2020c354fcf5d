import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { findSamples } from './prometheus-text.ts';

const find = (text: string, name = 'a:b'): unknown[] => findSamples(Buffer.from(text), name).map(({ labels, value }) => [Object.fromEntries(labels), value]);

describe('findSamples', () => {
  it.each<[string, string, unknown[]]>([
    ['a bare number', 'a:b 1\n', [[{}, 1]]],
    ['the last line without an end', 'x 1\na:b 2', [[{}, 2]]],
    ['lines that end in CR LF', 'a:b 1\r\na:b 2\r\n', [[{}, 1], [{}, 2]]],
    ['a timestamp', 'a:b 1.5e3 1395066363000\n', [[{}, 1500]]],
    ['an exemplar', 'a:b 7 # {id="x"} 0.1 1.2\n', [[{}, 7]]],
    ['signs and bare fractions', 'a:b -1\na:b +.5\na:b 2.\n', [[{}, -1], [{}, 0.5], [{}, 2]]],
    ['tabs and spaces', 'a:b\t \t3\na:b { x = "1" , y="2", }  4\n', [[{}, 3], [{ x: '1', y: '2' }, 4]]],
    ['no labels in braces', 'a:b{} 5\n', [[{}, 5]]],
    ['labels', 'a:b{model="x",engine="0"} 6\n', [[{ model: 'x', engine: '0' }, 6]]],
    ['escapes', 'a:b{p="C:\\\\dir \\"q\\" \\n\\x"} 1\n', [[{ p: 'C:\\dir "q" \n\\x' }, 1]]],
    ['braces, commas and line ends inside a label', 'a:b{p="},{=\\n# "} 1\n', [[{ p: '},{=\n# ' }, 1]]],
    ['UTF-8', 'a:b{p="größe ✓"} 1\n', [[{ p: 'größe ✓' }, 1]]],
  ])('reads %s', (_, text, expected) => {
    expect(find(text)).toEqual(expected);
  });

  it.each([
    ['what is not a number', 'a:b NaN\na:b +Inf\na:b -Inf\na:b 1e999\na:b 0x10\na:b one\na:b\na:b \na:b 1,5\na:b{} \n'],
    ['comments', '# HELP a:b text\n# TYPE a:b gauge\n#a:b 1\n'],
    ['longer names, and names inside others', 'a:b_total 1\na:bc 1\nxa:b 1\n a:b 1\nx{l="a:b 1"} 2\n'],
    ['labels that never end', 'a:b{x="1" 2\na:b{x="1 2\na:b{x=1} 2\na:b{"x"} 2\na:b{x} 2\na:b{,x="\\"} 3\n'],
    ['too many labels', `a:b{${Array.from({ length: 65 }, (_, i) => `l${i}="x"`).join(',')}} 1\n`],
    ['a line of more than 64 KiB', `a:b{x="${'y'.repeat(70_000)}"} 1\n`],
    ['nothing', ''],
  ])('leaves out %s', (_, text) => {
    expect(find(`${text}\n`)).toEqual([]);
  });

  it('goes on after lines that it cannot read', () => {
    expect(find('a:b{x="1 2\na:b 3\na:b NaN\na:b{x="y"} 4\n')).toEqual([[{}, 3], [{ x: 'y' }, 4]]);
  });

  it('stops at 4096 samples', () => {
    expect(find('a:b 1\n'.repeat(5_000))).toHaveLength(4_096);
  });

  it('looks at no more than 65 536 places', () => {
    expect(find(`${'a:ba:b'.repeat(32_768)}\na:b 1\n`)).toEqual([]);
  });

  it('never throws, and finds a written sample among anything', () => {
    const label = fc.string({ unit: 'grapheme', maxLength: 20 });
    const escape = (text: string): string => text.replaceAll('\\', '\\\\').replaceAll('"', '\\"').replaceAll('\n', '\\n');
    const noise = fc.string({ unit: fc.constantFrom('a:b', '{', '}', '"', '\\', '\n', ' ', '=', ',', '1', 'x', '\r', '#'), maxLength: 60 });
    fc.assert(
      fc.property(noise, label, fc.double({ noNaN: true, noDefaultInfinity: true }).filter((value) => !Object.is(value, -0)), noise, (before, text, value, after) => {
        const clean = text.replaceAll('\r', '');
        const found = find(`${before}\na:b{first="1",second="${escape(clean)}"} ${value}\n${after}`);
        expect(found).toContainEqual([{ first: '1', second: clean }, value]);
      }),
    );
  });
});
