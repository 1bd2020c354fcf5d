import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { probeFailures } from '../router/probe-events.ts';
import { type ProbeOutcome, ProbeRecord } from './probe-record.ts';

const passed: ProbeOutcome = { ok: true };
const failed = (cause: Extract<ProbeOutcome, { ok: false }>['cause']): ProbeOutcome => ({ ok: false, cause, detail: `of ${cause}` });
const outcomes: Readonly<Record<string, ProbeOutcome>> = {
  p: passed,
  s: failed('status'),
  u: failed('unreachable'),
  l: failed('unavailable'),
  m: failed('model-missing'),
  t: failed('timeout'),
};
const signs = { passing: 'P', loading: 'L', failing: 'F' };

/** What holds after each probe of a row of them: P, L, F, or `-` for what cannot be said. */
function verdicts(row: string, { failures = 2, passes = 1, isKnown = false } = {}): string {
  const record = new ProbeRecord();
  return row
    .split('')
    .map((probe) => record.note(outcomes[probe]!, { failures, passes }, isKnown))
    .map((verdict) => (verdict === undefined ? '-' : signs[verdict.kind]))
    .join('');
}

describe('ProbeRecord', () => {
  it.each([
    ['a server of which nobody knows anything is what its first probe says', 'p', 'P', {}],
    ['', 's', 'F', {}],
    ['', 'u', 'F', {}],
    ['', 'l', 'L', {}],
    ['', 'm', 'L', {}],
    ['', 'p', 'P', { passes: 3 }],
    ['', 's', 'F', { failures: 3 }],
    ['one failure more or less makes no difference', 'pspspuptp', 'PPPPPPPPP', {}],
    ['failures in a row do', 'pssp', 'PPFP', {}],
    ['', 'pstup', 'PPPFP', { failures: 3 }],
    ['', 'ps', 'PF', { failures: 1 }],
    ['so do passes', 'sppspppp', 'FFFFFFPP', { passes: 3 }],
    ['a server that starts answers 503 while it loads its model', 'puulllp', 'PPFLLLP', {}],
    ['or lists no model yet', 'puummp', 'PPFLLP', {}],
    ['one that has served and answers 503 fails', 'plllp', 'PPFFP', {}],
    ['503 after other failures is no start', 'pssll', 'PPFFF', {}],
    ['a model that is gone is loaded again, perhaps', 'pmmp', 'PPLP', {}],
    ['the last of the failures names what it is', 'psms', 'PPLF', {}],
    ['of a server that others have told of, one probe says no more than of one that we know', 's', '-', { isKnown: true }],
    ['', 'sps', '-PP', { isKnown: true }],
    ['', 'ss', '-F', { isKnown: true }],
    ['', 'spp', '--P', { isKnown: true, passes: 2 }],
  ])('%s: %s is %s', (_, row, expected, settings) => {
    expect(verdicts(row, settings)).toBe(expected);
  });

  it('tells the cause for people', () => {
    const record = new ProbeRecord();
    expect(record.note(failed('status'), { failures: 1, passes: 1 }, false)).toEqual({ kind: 'failing', detail: 'of status' });
    expect(record.note(failed('model-missing'), { failures: 1, passes: 1 }, false)).toEqual({ kind: 'loading', detail: 'of model-missing' });
    expect(record.note(passed, { failures: 1, passes: 1 }, false)).toEqual({ kind: 'passing' });
  });

  it('is sound only while it passes and the last probe did', () => {
    const record = new ProbeRecord();
    const soundAfter = (outcome: ProbeOutcome): boolean => {
      record.note(outcome, { failures: 2, passes: 2 }, false);
      return record.isSound;
    };
    expect(record.isSound).toBe(false);
    expect([passed, failed('status'), passed, failed('status'), failed('status'), passed, passed].map(soundAfter)).toEqual([true, false, true, false, false, false, true]);
  });

  it('forgets what others know better, rather than go on from where it stood', () => {
    const record = new ProbeRecord();
    const settings = { failures: 2, passes: 1 };
    record.note(passed, settings, false);
    record.note(failed('status'), settings, false);
    record.forget();
    expect(record.isSound).toBe(false);
    expect(record.note(failed('status'), settings, true)).toBeUndefined();
    expect(record.note(failed('status'), settings, true)).toMatchObject({ kind: 'failing' });
  });

  it('never changes its mind without as many probes in a row as it takes', () => {
    const probe = fc.oneof(fc.constant(passed), fc.constantFrom(...probeFailures).map(failed));
    fc.assert(
      fc.property(fc.array(probe, { maxLength: 40 }), fc.integer({ min: 1, max: 4 }), fc.integer({ min: 1, max: 4 }), fc.boolean(), (row, failures, passes, isKnown) => {
        const record = new ProbeRecord();
        let before: string | undefined;
        row.forEach((outcome, i) => {
          const after = record.note(outcome, { failures, passes }, isKnown)?.kind;
          const wentIn = before !== 'passing' && after === 'passing';
          const wentOut = before === 'passing' && after !== 'passing';
          const isFirst = i === 0 && !isKnown;
          if (wentIn && !isFirst) expect(row.slice(Math.max(0, i + 1 - passes), i + 1).every(({ ok }) => ok)).toBe(true);
          if (wentOut) expect(row.slice(i + 1 - failures, i + 1).some(({ ok }) => ok)).toBe(false);
          // And it does change where they are there.
          if (i + 1 >= passes && row.slice(i + 1 - passes, i + 1).every(({ ok }) => ok)) expect(after).toBe('passing');
          if (i + 1 >= failures && !row.slice(i + 1 - failures, i + 1).some(({ ok }) => ok)) expect(after).not.toBe('passing');
          before = after;
        });
      }),
    );
  });
});
