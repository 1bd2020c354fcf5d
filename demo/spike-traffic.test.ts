import { describe, expect, it } from 'vitest';
import { planSpike, spikeFactor } from './spike-traffic.ts';

const shape = { beforeMs: 20_000, spikeMs: 30_000, afterMs: 20_000, usualPerSecond: 4 };
const plan = planSpike(shape, 1);
const inPhase = (kind: string): typeof plan => plan.filter((request) => request.kind === kind);

describe('planSpike', () => {
  it('comes eight times as dense in the middle', () => {
    const perSecond = (kind: string, ms: number): number => inPhase(kind).length / (ms / 1_000);
    expect(perSecond('before', shape.beforeMs)).toBeGreaterThan(2.5);
    expect(perSecond('before', shape.beforeMs)).toBeLessThan(5.5);
    expect(perSecond('spike', shape.spikeMs) / shape.usualPerSecond).toBeGreaterThan(spikeFactor * 0.85);
    expect(perSecond('spike', shape.spikeMs) / shape.usualPerSecond).toBeLessThan(spikeFactor * 1.15);
    expect(inPhase('spike').every(({ arrivalMs }) => arrivalMs >= shape.beforeMs && arrivalMs < shape.beforeMs + shape.spikeMs)).toBe(true);
    expect(plan.every(({ arrivalMs }, i) => i === 0 || arrivalMs >= plan[i - 1]!.arrivalMs)).toBe(true);
    expect(plan.at(-1)!.arrivalMs).toBeLessThan(70_000);
  });

  it('goes on with about half of the chats, each turn with all that was said before', () => {
    const later = plan.filter(({ messages }) => messages.length > 2);
    expect(later.length / plan.length).toBeGreaterThan(0.35);
    expect(later.length / plan.length).toBeLessThan(0.6);
    for (const request of later) {
      const earlier = plan.findLast(({ session, arrivalMs }) => session === request.session && arrivalMs < request.arrivalMs)!;
      expect(request.messages.slice(0, earlier.messages.length)).toEqual(earlier.messages);
      expect(request.messages.length).toBe(earlier.messages.length + 2);
    }
  });

  it('is the same for a seed', () => {
    expect(planSpike(shape, 1)).toEqual(plan);
    expect(planSpike(shape, 2)).not.toEqual(plan);
  });
});
