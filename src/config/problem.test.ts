import { describe, expect, it } from 'vitest';
import { describeProblems, toPath } from './problem.ts';

describe('toPath', () => {
  it.each<[PropertyKey[], string]>([
    [[], ''],
    [['pools'], 'pools'],
    [['pools', 0], 'pools[0]'],
    [['pools', 0, 'endpoints', 12, 'address'], 'pools[0].endpoints[12].address'],
    [[0, 'a'], '[0].a'],
    [['labels', '10'], 'labels.10'],
  ])('%j: %s', (segments, expected) => {
    expect(toPath(segments)).toBe(expected);
  });
});

describe('describeProblems', () => {
  it('writes one a line, with the file as a whole named so', () => {
    const problems = [
      { path: 'pools[0].name', message: 'expected a name' },
      { path: '', message: 'cannot be read' },
    ];
    expect(describeProblems(problems)).toBe('  pools[0].name: expected a name\n  (file): cannot be read');
    expect(describeProblems([])).toBe('');
  });
});
