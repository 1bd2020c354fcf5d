import * as z from 'zod';
import { standing } from '../../core/filter-promises.ts';
import type { EndpointStanding } from '../../core/fleet-snapshot.ts';
import { defineFilter } from '../strategy.ts';

const values = z.union([z.string(), z.array(z.string()).min(1)], { error: 'expected a value or a list of values' });
const wanted = z.record(z.string(), values).refine((labels) => Object.keys(labels).length > 0, { error: 'expected at least one label' });

const headerName = z.string().regex(/^[a-z0-9!#$%&'*+.^_`|~-]{1,128}$/, { error: 'expected a header name in lower case' });

const parameters = z
  .strictObject({
    require: wanted.optional().describe('labels that an endpoint must have, each with one of the values; others are left out, even if none is left'),
    requireHeader: z
      .record(z.string(), headerName)
      .refine((labels) => Object.keys(labels).length > 0, { error: 'expected at least one label' })
      .optional()
      .describe('labels whose value has to be that of a request header; a request without the header may go anywhere'),
    prefer: wanted.optional().describe('labels that an endpoint should have; ignored where no endpoint that may serve has them all'),
  })
  .refine((all) => Object.values(all).some((value) => value !== undefined), { error: 'expected require, requireHeader or prefer' });

type Wanted = Readonly<Record<string, string | readonly string[]>>;

/** Keeps requests on endpoints with certain labels: region residency, data shard, model version, kind of GPU. */
export const labels = defineFilter({
  type: 'labels',
  prefers: 'Leaves out endpoints that lack a required label; of the rest, those with all preferred labels come alone as long as there is one.',
  wrongWhen: 'The label is the same for the whole pool (give it a pool of its own and a route), or nearness should give way to load (region).',
  formula: 'for every label of require: the endpoint’s value is among those named; of requireHeader: it is the header’s; the same for prefer, as long as an endpoint is left',
  source: 'Label selectors as Kubernetes has them.',
  parameters,
  example: { require: { gpu: ['h100', 'h200'] }, prefer: { zone: 'a' } },
  needs: [],
  create: ({ require, requireHeader }) => {
    const isWanted = matcherOf(require);
    const byHeader = Object.entries(requireHeader ?? {});
    if (byHeader.length === 0) return standing((endpoint) => (isWanted(endpoint) ? undefined : 'label-mismatch'));
    return (endpoint, { facts }) => {
      if (!isWanted(endpoint)) return 'label-mismatch';
      for (const [label, header] of byHeader) {
        const value = facts.headers.get(header);
        if (value !== undefined && labelOf(endpoint, label) !== value) return 'label-mismatch';
      }
      return undefined;
    };
  },
  createPreference: ({ prefer }) => {
    if (prefer === undefined) return undefined;
    const isWanted = matcherOf(prefer);
    return standing((endpoint) => (isWanted(endpoint) ? undefined : 'label-not-preferred'));
  },
  headersOf: ({ requireHeader }) => Object.values(requireHeader ?? {}),
});

function labelOf({ labels: all }: EndpointStanding, label: string): string | undefined {
  return Object.hasOwn(all, label) ? all[label] : undefined;
}

function matcherOf(wanted: Wanted | undefined): (endpoint: EndpointStanding) => boolean {
  const sets = Object.entries(wanted ?? {}).map(([label, value]) => [label, new Set(typeof value === 'string' ? [value] : value)] as const);
  return (endpoint) =>
    sets.every(([label, allowed]) => {
      const value = labelOf(endpoint, label);
      return value !== undefined && allowed.has(value);
    });
}
