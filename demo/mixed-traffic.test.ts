import { describe, expect, it } from 'vitest';
import { planMixedTraffic } from './mixed-traffic.ts';

describe('planMixedTraffic', () => {
  const plan = planMixedTraffic(400, 1);

  it('plans the same for the same seed, and other prompts at other times for another', () => {
    expect(planMixedTraffic(400, 1)).toEqual(plan);
    const other = planMixedTraffic(400, 2);
    expect(other.map(({ arrivalMs }) => arrivalMs)).not.toEqual(plan.map(({ arrivalMs }) => arrivalMs));
  });

  it('begins the same however many requests are asked for', () => {
    expect(planMixedTraffic(60, 1)).toEqual(plan.slice(0, 60));
  });

  it('has both kinds in order of arrival: chats of hundreds of tokens, documents of 30 000', () => {
    expect(plan).toHaveLength(400);
    plan.forEach(({ arrivalMs }, i) => expect(arrivalMs).toBeGreaterThanOrEqual(plan[i - 1]?.arrivalMs ?? 0));
    for (const { kind, messages } of plan) {
      const tokens = messages.reduce((sum, { content }) => sum + (typeof content === 'string' ? content.length / 4 : 0), 0);
      if (kind === 'short') expect(tokens).toBeLessThan(1_600);
      else expect(Math.abs(tokens - 30_000)).toBeLessThan(6_000);
    }
    const documents = plan.filter(({ kind }) => kind === 'document').length;
    expect(documents).toBeGreaterThan(40);
    expect(documents).toBeLessThan(120);
  });

  it('repeats in each turn all that the session said before, so that caches can help', () => {
    const before = new Map<number, readonly unknown[]>();
    let later = 0;
    for (const { session, messages } of plan) {
      const earlier = before.get(session);
      if (earlier !== undefined) {
        later += 1;
        expect(messages.length).toBe(earlier.length + 2);
        expect(messages.slice(0, earlier.length)).toEqual(earlier);
      }
      before.set(session, messages);
    }
    expect(later).toBeGreaterThan(200);
  });

  it('gives every session a first question of its own', () => {
    const firsts = plan.filter(({ messages }) => messages.length === 2).map(({ messages }) => JSON.stringify(messages[1]).slice(0, 300));
    expect(new Set(firsts).size).toBe(firsts.length);
  });
});
