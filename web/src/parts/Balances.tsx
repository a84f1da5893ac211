import { memo } from "react";
import type { Account } from "../lib/account";
import { add } from "../lib/decimal";
import { AmountCell, Table } from "./Basics";

/** What the account has; `brief` leaves out the totals, for a narrow place. */
export const Balances = memo(function Balances({ account, brief = false }: { account: Account; brief?: boolean }) {
  const rows = Object.values(account.balances);
  const head = ["Asset", ">Available", ">In use", ...(brief ? [] : [">Total"])];
  return (
    <>
      <h2>Balances</h2>
      {!account.ready && <p className="notice">Loading…</p>}
      {account.ready && rows.length === 0 && (
        <p className="notice">Nothing here yet: take some play money from the faucet in your wallet.</p>
      )}
      {rows.length > 0 && (
        <Table label="Balances by asset" head={head}>
          {rows.map(({ asset = "", free = "0", held = "0" }) => (
            <tr key={asset}>
              <td>{asset}</td>
              <AmountCell amount={free} />
              <AmountCell amount={held} />
              {!brief && <AmountCell amount={add(free, held)} />}
            </tr>
          ))}
        </Table>
      )}
    </>
  );
});
