import { describe, expect, it } from 'vitest';
import type { EndpointDefinition } from '../fleet/endpoint.ts';
import { FleetView } from '../fleet/fleet-view.ts';
import { type DiscoverySource, FleetMembers } from './fleet-members.ts';

const define = (address: string, weight = 1): EndpointDefinition => ({ address, weight, labels: {}, requestsMax: undefined });

function create(...configured: string[]): { fleet: FleetView; members: FleetMembers; told: string[]; list: (pool?: string) => string[] } {
  const pools = [{ name: 'chat', endpoints: configured.map((address) => define(address)) }];
  const fleet = new FleetView(pools);
  const told: string[] = [];
  const members = new FleetMembers({ fleet, nowMs: () => 5, changed: (changes) => told.push(...changes.map(({ kind, endpoint }) => `${kind} ${endpoint.address}`)) }, pools);
  const list = (pool = 'chat'): string[] => (fleet.pool(pool)?.endpoints ?? []).filter(({ state }) => state !== 'draining').map(({ address }) => address);
  return { fleet, members, told, list };
}

const sources = (...kinds: DiscoverySource[]): ReadonlyMap<string, ReadonlySet<DiscoverySource>> => new Map([['chat', new Set(kinds)]]);

describe('FleetMembers', () => {
  it('adds up what configuration, file and name service say; each replaces only its own word', () => {
    const { members, list } = create('10.0.0.1:80');
    members.found('chat', 'file', [define('10.0.0.2:80'), define('10.0.0.3:80')]);
    members.found('chat', 'dns', [define('10.0.0.4:80')]);
    expect(list()).toEqual(['10.0.0.1:80', '10.0.0.2:80', '10.0.0.3:80', '10.0.0.4:80']);
    members.found('chat', 'file', [define('10.0.0.3:80')]);
    expect(list()).toEqual(['10.0.0.1:80', '10.0.0.3:80', '10.0.0.4:80']);
    members.found('chat', 'dns', []);
    expect(list()).toEqual(['10.0.0.1:80', '10.0.0.3:80']);
  });

  it('goes by the operator first, then configuration, file, name service', () => {
    const { fleet, members } = create('10.0.0.1:80');
    const weight = (): number | undefined => fleet.pool('chat')?.endpoint('10.0.0.1:80')?.weight;
    members.found('chat', 'file', [define('10.0.0.1:80', 2)]);
    expect(weight()).toBe(1);
    members.add('chat', [define('10.0.0.1:80', 3)]);
    expect(weight()).toBe(3);
    expect(members.sourceOf('chat', '10.0.0.1:80')).toBe('operator');
    members.configure([{ name: 'chat', endpoints: [] }], sources('file'));
    expect(weight()).toBe(3);
  });

  it('keeps what an operator took away from coming back, until it is added again', () => {
    const { members, told, list } = create('10.0.0.1:80', '10.0.0.2:80');
    expect(members.remove('chat', '10.0.0.1:80')).toBeUndefined();
    expect(members.remove('chat', '10.0.0.1:80')).toBe('endpoint');
    members.found('chat', 'file', [define('10.0.0.1:80')]);
    members.configure([{ name: 'chat', endpoints: [define('10.0.0.1:80'), define('10.0.0.2:80')] }], sources('file'));
    expect(list()).toEqual(['10.0.0.2:80']);
    members.add('chat', [define('10.0.0.1:80')]);
    expect(list()).toEqual(['10.0.0.1:80', '10.0.0.2:80']);
    expect(told).toEqual(['removed 10.0.0.1:80', 'returned 10.0.0.1:80']);
  });

  it('adds and takes away all the ranks of an address', () => {
    const { members, list } = create('10.0.0.1:80#0', '10.0.0.1:80#1');
    members.add('chat', [define('10.0.0.2:80#0'), define('10.0.0.2:80#1')]);
    members.remove('chat', '10.0.0.1:80');
    expect(list()).toEqual(['10.0.0.2:80#0', '10.0.0.2:80#1']);
    // With another number of ranks it is another set of endpoints, not both.
    members.add('chat', [define('10.0.0.2:80')]);
    expect(list()).toEqual(['10.0.0.2:80']);
  });

  it('forgets what a source said that the configuration no longer names, and what came of a pool that is gone', () => {
    const { fleet, members, list } = create('10.0.0.1:80');
    members.found('chat', 'file', [define('10.0.0.2:80')]);
    members.found('chat', 'dns', [define('10.0.0.3:80')]);
    members.configure([{ name: 'chat', endpoints: [define('10.0.0.1:80')] }], sources('dns'));
    expect(list()).toEqual(['10.0.0.1:80', '10.0.0.3:80']);
    members.add('chat', [define('10.0.0.4:80')]);
    members.configure([{ name: 'other', endpoints: [define('10.0.0.9:80')] }], new Map());
    expect(list()).toEqual([]);
    expect(list('other')).toEqual(['10.0.0.9:80']);
    expect(fleet.isLeaving('chat')).toBe(true);
    // A source that is being stopped may still have had something to say.
    members.found('chat', 'dns', [define('10.0.0.3:80')]);
    expect(list()).toEqual([]);
    expect([members.add('chat', [define('10.0.0.1:80')]), members.remove('chat', '10.0.0.1:80')]).toEqual([false, 'pool']);
    members.configure([{ name: 'chat', endpoints: [define('10.0.0.1:80')] }], sources('dns'));
    expect(list()).toEqual(['10.0.0.1:80']);
  });

  it('tells nothing when nothing changed, and what is gone once it is', () => {
    const { members, told } = create('10.0.0.1:80');
    members.found('chat', 'file', []);
    members.configure([{ name: 'chat', endpoints: [define('10.0.0.1:80')] }], sources());
    expect(told).toEqual([]);
    members.remove('chat', '10.0.0.1:80');
    members.sweep(1_000);
    members.sweep(1_000);
    expect(told).toEqual(['removed 10.0.0.1:80', 'gone 10.0.0.1:80']);
  });
});
