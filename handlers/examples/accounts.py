"""Accounts: a class with a method for GET and one for POST, and a transfer that happens as a whole or not at all."""

from decimal import Decimal

import layout
from handlers.base import Handler, connection
from markup import Html, each, fill, rows

ACCOUNTS = """
SELECT a.owner, a.balance, a.currency, u.name AS currency_name
FROM demo.account a JOIN demo.currency u ON u.code = a.currency
ORDER BY a.owner
"""

# Always in the same order: two transfers that go opposite ways wait for each
# other here, where they would be a deadlock if each began with its payer.
LOCK = """
SELECT owner, balance FROM demo.account
WHERE owner IN (%(payer)s, %(payee)s)
ORDER BY owner FOR UPDATE
"""

MOVE = """
UPDATE demo.account SET balance = balance + CASE owner WHEN %(payer)s THEN -%(amount)s ELSE %(amount)s END
WHERE owner IN (%(payer)s, %(payee)s)
"""

FORM = """$notice
$table
<h2>Transfer</h2>
<form class="form" method="post" action="/accounts">
<div><label for="payer">From</label><select id="payer" name="payer">$payers</select></div>
<div><label for="payee">To</label><select id="payee" name="payee">$payees</select></div>
<div><label for="amount">Amount</label>
<input id="amount" name="amount" type="number" min="0.01" step="0.01" required value="$amount"></div>
<div class="wide"><button>Transfer</button></div>
</form>
"""

ROW = """<tr><td>$owner</td><td class="number">$balance</td>
<td><abbr title="$currency_name">$currency</abbr></td></tr>
"""


class Accounts(Handler):
    """Each request has an instance of its own: what it keeps on `self` no other request sees."""

    payer = payee = amount = ""

    def get(self, req, moved: Decimal | None = None):
        """The accounts, and a form for a transfer."""
        return self._show(req, fill('<p class="done" role="status">$moved moved.</p>', moved=moved) if moved else "")

    def post(self, req, payer: str, payee: str, amount: Decimal):
        """Transfer *amount*, then send the browser back to the list."""
        if layout.is_foreign(req):
            return layout.problem(
                req, globals(), connection(req), 403, "Not from here", "The form was sent by another site's page."
            )
        self.payer, self.payee, self.amount = layout.text(payer), layout.text(payee), amount
        fault = self._transfer(connection(req))
        if fault:
            req.status = 422
            return self._show(req, fill('<p class="error" role="alert">$fault</p>', fault=fault))
        return layout.see_other(f"/accounts?moved={amount}")

    def _transfer(self, conn):
        """Move the money within the request's transaction; what is wrong in words, or None."""
        if not 0 < self.amount < 10**9 or self.amount != round(self.amount, 2):
            return "The amount must be more than nothing, in whole cents."
        transfer = {"payer": self.payer, "payee": self.payee, "amount": self.amount}
        with conn.cursor() as cur:
            cur.execute(LOCK, transfer)
            balances = dict(cur.fetchall())
            if len(balances) != 2:
                return "Choose two different accounts."
            if balances[self.payer] < self.amount:
                return f"{self.payer} has {balances[self.payer]} only."
            cur.execute(MOVE, transfer)
        return None

    def _show(self, req, notice):
        """The page, with what was typed still in the form."""
        conn = connection(req)
        with conn.cursor() as cur:
            cur.execute(ACCOUNTS)
            accounts = rows(cur)
        body = fill(
            FORM,
            notice=notice,
            table=layout.table(
                f"Together {sum(account['balance'] for account in accounts)}, whatever is transferred",
                ("Owner", "Balance", "Currency"),
                each(ROW, accounts),
                numbers=("Balance",),
            ),
            payers=self._choices(accounts, self.payer),
            payees=self._choices(accounts, self.payee or accounts[-1]["owner"]),
            amount=self.amount,
        )
        return layout.page(
            req,
            globals(),
            conn,
            title="Accounts",
            body=body,
            shows=Html(
                "A subclass of <code>handlers.base.Handler</code>: <code>get</code> and <code>post</code> are methods, "
                "and <code>connection(req)</code> gives each of them the connection that the whole request shares. "
                "Two rows change, in one transaction."
            ),
            edit=Html(
                "Take the check of the balance out of <code>_transfer</code> in <code>examples/accounts.py</code>, and "
                "transfer too much."
            ),
            watch=Html(
                "PostgreSQL refuses the negative balance (the <code>CHECK</code> in <code>_setup/schema.sql</code>), "
                "the answer is a 500, and both accounts are as they were."
            ),
        )

    @staticmethod
    def _choices(accounts, chosen):
        """The owners as choices of a `<select>`."""
        return each(
            "<option$selected>$owner</option>",
            (a | {"selected": Html(" selected" if a["owner"] == chosen else "")} for a in accounts),
        )


# `/accounts`. In a configuration it would be `PythonHandler accounts::Accounts.handler`.
index = Accounts
